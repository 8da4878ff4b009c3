"""Loss functions and objectives on tensors; knows neither files nor configuration files."""
