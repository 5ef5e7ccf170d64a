"""What ``xt bench`` measures: operations and context encoders beside their peers, with the machine's own limits."""
