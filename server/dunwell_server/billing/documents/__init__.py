"""Documents for clients: what is on them, in which words, and how they look.

`data` has what a document shows, all text formatted; `invoices`, `receipts`, `credit_notes` and `statements` make it of the book's facts;
`formats` writes amounts and dates as a locale does, in the words of `words/`; `pdf` and `html` set it by the templates of `templates/`.
Pure but for `pdf`, which has threads of its own.
"""
