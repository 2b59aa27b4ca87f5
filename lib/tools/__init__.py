"""What an assistant answers with: each tool a function of a request's arguments that gives answers (lib/answers.py)."""
