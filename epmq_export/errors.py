"""The one tree of errors. Each is a sentence for the user and carries the exit code of the command line.

EpmqError
├── VerificationFailed   1  the artefact fails verification
├── RecipeError          2  wrong use: a recipe, an option, an output that exists
├── InputError           3  a bad input file: a checkpoint, calibration data, a written model
│   └── CalibrationError 3  the numbers of a layer cannot be solved
├── OutputError          3  a place that cannot be written: a full disk, a file where a directory is needed
└── MissingRuntime       4  a runtime that is needed is not installed
"""


class EpmqError(Exception):
    exit_code = 1


class VerificationFailed(EpmqError):
    exit_code = 1


class RecipeError(EpmqError):
    exit_code = 2


class InputError(EpmqError):
    exit_code = 3


class CalibrationError(InputError):
    exit_code = 3


class OutputError(EpmqError):
    exit_code = 3


class MissingRuntime(EpmqError):
    exit_code = 4
