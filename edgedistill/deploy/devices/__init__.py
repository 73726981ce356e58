"""Connections to devices: this machine, SSH, adb."""
