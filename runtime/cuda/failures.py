"""What a CUDA driver call failed with, and the message that posedge makes of it."""

from ...errors import DeviceError

SUCCESS = 0
OUT_OF_MEMORY = 2
NOT_INITIALIZED = 3
NO_DEVICE = 100
INVALID_DEVICE = 101
INVALID_CONTEXT = 201

# After these the context is unusable until the process ends (CUDA driver API, CUresult).
STICKY = frozenset({46, 214, 220, 700, 702, 710, 714, 715, 716, 717, 718, 719, 720})

_UNSUITABLE_CODE = "The code was made for another device. Let posedge compile it on this one: empty its cache"

_ADVICE = {
    1: "This is a defect of posedge or of the caller; please report it with this message",
    OUT_OF_MEMORY: "Free memory on the device, or run smaller batches",
    NOT_INITIALIZED: "If this process was forked after CUDA was used, start it with "
    "multiprocessing.get_context('spawn') instead",
    34: "The machine has the stub of the driver library only. Install the NVIDIA driver",
    35: "Install a newer NVIDIA driver",
    46: "The device is busy, in exclusive use or gone. Look with nvidia-smi",
    NO_DEVICE: "No device is visible. Check nvidia-smi, CUDA_VISIBLE_DEVICES, and that a container was "
    "started with the devices (--gpus all)",
    INVALID_DEVICE: "Choose a device that nvidia-smi lists",
    200: _UNSUITABLE_CODE,
    209: _UNSUITABLE_CODE,
    218: _UNSUITABLE_CODE,
    222: "Install a newer NVIDIA driver",
    500: "The compiled code has no function of that name",
    702: "A kernel ran longer than the display's time limit; use smaller batches",
    802: "The machine's fabric is not ready. Look at the fabric manager's service",
    803: "The driver library and the kernel module differ. Reboot, or install the driver again",
    804: "The device does not support this driver's forward compatibility. Install its own driver",
    999: "Reload the driver, or reboot",
}


class CudaFailure(Exception):
    """A driver call that did not succeed. Only the implementations of ``Driver`` raise it.

    call: the function's name in the driver API. code: CUresult. name: CUDA's name of the code.
    """

    def __init__(self, call: str, code: int, name: str) -> None:
        super().__init__(f"{call}: {name}")
        self.call = call
        self.code = code
        self.name = name


def device_error(failure: CudaFailure, doing: str, detail: str = "") -> DeviceError:
    """The error for the user.

    doing: what was attempted, in words after "cannot". detail: figures that explain it, or "".
    """
    advice = _ADVICE.get(failure.code, "Look the name up in the CUDA driver API's list of results")
    if failure.code in STICKY:
        advice = "The device is lost for this process: close everything and start the process again"
        if failure.code in (46, 702):
            advice += f". {_ADVICE[failure.code]}"
    return DeviceError(
        f"cannot {doing}: {failure.name} ({failure.code}, {failure.call}){detail}. {advice}.", failure.name
    )
