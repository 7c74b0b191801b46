"""The page that shows a cache directory in a browser.

    browser -> Admission -> app -> Stores -> Listing, Results -> a store, read-only
                              └--> a change                   -> a store, opened to change

It needs the extra `web` and is only imported by `bencher-job serve`. `static/` has the HTML, CSS and JavaScript modules
as the browser runs them, without a build step or anything from other sites.
"""
