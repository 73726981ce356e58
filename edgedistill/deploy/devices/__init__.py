"""Ways to reach a device: this machine, SSH, adb."""
