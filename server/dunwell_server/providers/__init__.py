"""Payment providers behind one interface.

`base` is the interface and the words it uses, `registry` the list of providers, and every other module one provider.
Adding a provider is one module (or package) here and one call of `ProviderRegistry.register` in the composition root.
Nothing here knows of invoices, firms' settings or the database: an adapter is handed an account and a request, and maps
whatever the provider answers to exactly one `OutcomeClass`.
"""
