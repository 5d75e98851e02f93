"""What all commands share: options, configurations, messages, streams."""
