"""Mutation testing: plants one small fault at a time and asks whether the tests notice.

::

    mutants   which faults there are: operators over the syntax tree of a module
    targets   which tests belong to a module (tests.toml, and names that match)
    trial     runs the tests of one mutant in a copy of the project, never in the checkout
    __main__  the command: python -m tests.mutation --help
"""
