"""`python -m producer.cli`: runs the program if there is no `resnextq` beside the interpreter."""

from producer.cli.entry import main

if __name__ == "__main__":
    main()
