"""The page over a cache directory.

    browser -> Admission -> app -> Shelf -> Listing, Results -> a store, opened to look
                                     └───-> Changes            -> a store, opened to change

It needs the extra `web` and is imported by `bencher-job serve` only. `static/` is the page itself: HTML, CSS and
JavaScript modules as the browser runs them, with nothing to build and nothing from anywhere else.
"""
