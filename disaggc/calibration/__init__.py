"""What this machine is, by measurement: kernels, messages and engine, as a system that plans are priced on.

``probing`` and ``engine`` time small graphs and a small decoder, ``fitting`` turns times into the
constants of the cost model, ``declaring`` writes them as a declared system, and ``predicting`` says
what a plan would do on it.
"""

from disaggc.calibration.calibrating import Calibrated, Options, calibrate
from disaggc.calibration.declaring import Machine, system_of, toml_of
from disaggc.calibration.engine import write_system
from disaggc.calibration.fitting import Kernels, Messages, Reading, Steps, fit_kernels, fit_messages
from disaggc.calibration.predicting import Forecast, forecast, in_one_process

__all__ = [
    "Calibrated",
    "Forecast",
    "Kernels",
    "Machine",
    "Messages",
    "Options",
    "Reading",
    "Steps",
    "calibrate",
    "fit_kernels",
    "fit_messages",
    "forecast",
    "in_one_process",
    "system_of",
    "toml_of",
    "write_system",
]
