"""What a report looks like: table, receipt, CSV, plot."""
