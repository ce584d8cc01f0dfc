"""What prepares, runs, watches and reports experiments: all that needs the grader (`reward`), and no verl, Ray or vLLM."""
