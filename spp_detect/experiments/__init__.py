"""What is measured or tried with whole detectors: tables, speed, the demo."""
