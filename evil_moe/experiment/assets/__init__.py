"""What a run starts from: its policy and its problems, built or found."""
