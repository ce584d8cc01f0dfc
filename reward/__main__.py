"""`python -m reward grade ...`: the environment's command line, without the recipe around it."""

import argparse
import sys

from reward.command import GRADE_HELP, GRADE_NOTES, add_grade_arguments, run_grade
from reward.errors import shown_error
from reward.sandbox import SandboxFault


def main() -> int:
    """Run a command; 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m reward", description="The reward-hacking environment.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    grade = commands.add_parser(
        "grade",
        help=GRADE_HELP,
        description=GRADE_HELP + ".",
        epilog=GRADE_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_grade_arguments(grade)
    try:
        return run_grade(parser.parse_args())
    except (ValueError, FileNotFoundError, SandboxFault) as error:
        print(f"reward: error: {shown_error(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("reward: stopped; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
