"""A job's network, the models it gives, and the form in which one leaves."""
