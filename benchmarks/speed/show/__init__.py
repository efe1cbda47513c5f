"""Results for people: tables, pages, comparisons and the gate."""
