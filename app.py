"""The Space: builds the page and launches it. Host and port come from GRADIO_SERVER_NAME and GRADIO_SERVER_PORT."""

import spaces  # noqa: F401, I001  first: on ZeroGPU it must be there before anything else touches CUDA

from sharingan_hub.space import build_demo
from sharingan_hub.space.style import LAUNCH

demo = build_demo()

if __name__ == "__main__":
    demo.launch(**LAUNCH)
