"""Tables, pages, gates: what people see of a result."""
