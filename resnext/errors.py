"""What can go wrong with a model, for people: what was wrong, with the value, and what to do.

    ModelError
    ├── UnknownModelError     no model has this name
    ├── BadSpec               a JSON file that describes a model does not
    ├── DeviceError           the device that was asked for is not there, or cannot be used
    │   └── DeviceBroken        it fails on everything until this process ends
    ├── EngineError           the engine that was asked for does not run here
    ├── ExportError           a model cannot be exported to where it was asked for
    │   └── ExportUnavailable   a package, a compiler or a place to write is missing here
    └── WeightsError          the weights cannot be used
        ├── UnknownWeights    neither a name that the model knows nor a file
        ├── UnreachableWeights  they cannot be downloaded: worth another try, or another source
        ├── DamagedWeights    truncated, another hash than published, or no weights file
        └── ForeignWeights    weights of another network

Raised before the first image alone, but for `DeviceBroken`, which may come with any batch. An image
without a prediction is no exception.
"""


class ModelError(Exception):
    """The root; the message is written for the person who chose model and weights."""


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
    pass


class DamagedWeights(WeightsError):
    pass


class ForeignWeights(WeightsError):
    pass
