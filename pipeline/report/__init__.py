"""A folder of runs -> one self-contained HTML page, readable offline, and a score table.

    collect     files -> records, in whatever state they are       scores     rows of the score table
    html        elements that escape what they hold                curves     inline SVG
    pictures    maps -> data: PNG                                  style.css  the page's look
    page        all sections in order; the rest: one section each

Nothing here loads a model: all numbers and pictures are those that the runs left.
"""
