"""Requests to AWS without boto3: credentials and signatures."""
