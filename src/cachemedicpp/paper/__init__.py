"""From the metrics of runs to figures, tables, the report page and the verdict of the gates."""
