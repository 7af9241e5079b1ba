"""Errors of models. Their messages are for people: what was wrong, with the value, and what to do.

    ModelError
    ├── UnknownModelError     no model has this name
    ├── BadSpec               a JSON file does not describe a model
    ├── DeviceError           the requested device does not exist, or cannot be used
    │   └── DeviceBroken        the device fails on everything until this process ends
    ├── EngineError           the requested engine does not run here
    ├── ExportError           a model cannot be exported to the requested folder
    │   └── ExportUnavailable   a package or a compiler is missing, or the folder cannot be written
    └── WeightsError          the weights cannot be used
        ├── UnknownWeights    neither a name that the model knows nor a file
        ├── UnreachableWeights  they cannot be downloaded: try again, or use another source
        ├── DamagedWeights    truncated, not the published hash, or not a weights file
        └── ForeignWeights    weights of another network

All are raised before the first image, except `DeviceBroken`, which any batch may raise. An image
without a prediction is not an exception.
"""


class ModelError(Exception):
    """The root. The message is for the person who chose the model and the weights."""


class UnknownModelError(ModelError):
    pass


class BadSpec(ModelError):
    pass


class DeviceError(ModelError):
    pass


class DeviceBroken(DeviceError):
    pass


class EngineError(ModelError):
    pass


class ExportError(ModelError):
    pass


class ExportUnavailable(ExportError):
    pass


class WeightsError(ModelError):
    pass


class UnknownWeights(WeightsError):
    pass


class UnreachableWeights(WeightsError):
    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """The reason without advice, such as `it does not answer within 3 s`."""


class DamagedWeights(WeightsError):
    pass


class ForeignWeights(WeightsError):
    pass
