"""What people are shown beside a payment: documents by influence, and passages that match."""
