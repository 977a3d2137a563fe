"""AWS Lambda: the decorator, a context for each record of a batch, work after the response, SnapStart."""
