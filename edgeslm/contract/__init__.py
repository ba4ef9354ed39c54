"""What crosses a boundary: files, environment, MQTT. pydantic only.

Importing this package loads no numpy, paho, ONNX Runtime or torch.
"""
