"""A firm's two years as one would do them in a spreadsheet, and the same two years lived by the server.

`arithmetic`, `facts`, `fees`, `hours`, `prices`, `credit`, `notes` and `account` are the spreadsheet: they import nothing of
`dunwell_server`, which a test sees to, and compute in fractions and whole minor units from the written rules. `scenes`, `dice` and
`rare` are what was agreed and what happens. `world` has the server live it, and reads what it wrote.
"""
