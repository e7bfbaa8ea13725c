"""Disputes: a client's bank contests a payment. Inquiries move no money, chargebacks do."""
