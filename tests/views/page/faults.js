// Finds what acts and has no name, and texts and hints whose contrast with their ground is less than 4.5.
() => {
  const shown = (each) => each.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const nameless = [...document.querySelectorAll("button, input, select, a, img, summary, [role=img], [role=group], [role=button]")]
    .filter((each) => shown(each) && !each.closest("[aria-hidden=true]") && each.getAttribute("alt") === null)
    .filter((each) => !(each.getAttribute("aria-label") ?? each.closest("label")?.textContent ?? each.textContent).trim())
    .map((each) => each.outerHTML);

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = (color) => [0.2126, 0.7152, 0.0722].reduce((sum, part, at) => {
    const value = rgba(color)[at] / 255;
    return sum + part * (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  }, 0);
  const ground = (each) => {
    const tip = each.closest("[aria-label=tip]");
    if (tip) return getComputedStyle(tip).fill;
    for (let place = each; place; place = place.parentElement) {
      const color = getComputedStyle(place).backgroundColor;
      if (rgba(color)[3] === 255) return color;
    }
    return "white";
  };
  const contrast = (each, color) => {
    const [low, high] = [luminance(color), luminance(ground(each))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const isOff = ":disabled, noscript, .skip, option";
  const faint = [...document.querySelectorAll("body *")]
    .filter((each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()))
    .filter((each) => shown(each) && !each.closest(isOff) && each.tagName !== "style")
    .map((each) => {
      const style = getComputedStyle(each);
      return [contrast(each, each.closest("svg") ? style.fill : style.color), each.tagName, String(each.className), each.textContent.slice(0, 40)];
    });
  const hints = [...document.querySelectorAll("input")].filter((each) => shown(each) && each.placeholder && !each.value)
    .map((each) => [contrast(each, getComputedStyle(each, "::placeholder").color), "hint", each.placeholder]);
  return [...nameless, ...[...faint, ...hints].filter(([ratio]) => ratio < 4.5).map(String)];
}
