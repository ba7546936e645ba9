"""What a run tells its user: progress, records, drawings, pages."""
