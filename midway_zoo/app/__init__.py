"""``midway-zoo app``: a page to play with (extra ``app``); see docs/app.md.

``server.py`` serves it, ``page.py`` lays it out: these two need Gradio. What happens on it is in ``callbacks.py``, what
is drawn in ``views.py``, what may be dropped in ``uploads.py``.
"""
