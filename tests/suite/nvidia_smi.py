#!/usr/bin/env python3
"""An nvidia-smi for machines without a driver, which says what fake_nvml.c says of its Hopper cards.

FAKE_NVML_CARDS is their number (2), FAKE_SMI names a field that is told otherwise, as `power.limit=300`.
"""

import datetime
import os
import sys
import time

VALUES = {
    "name": "NVIDIA H100 80GB HBM3", "driver_version": "580.95.05", "memory.total": "24576", "memory.used": "12288", "power.draw": "338.00",
    "power.limit": "450.00", "temperature.gpu": "71", "temperature.memory": "72", "clocks.sm": "2520", "fan.speed": "[N/A]",
}


def main():
    options = dict(word.partition("=")[::2] for word in sys.argv[1:])
    n_cards = int(os.environ.get("FAKE_NVML_CARDS") or 2)
    cards = range(n_cards, 0, -1)  # as NVML counts them: not by bus
    if "--list-gpus" in options:
        print("\n".join(f"GPU {index}: {VALUES['name']} (UUID: {uuid(card)})" for index, card in enumerate(cards)))
    elif "--query-gpu" in options:
        shown = [cards[int(options["--id"])]] if "--id" in options else cards
        fields = options["--query-gpu"].split(",")
        print("\n".join(", ".join(value(field, card) for field in fields) for card in shown), flush=True)
        while "--loop-ms" in options:
            time.sleep(int(options["--loop-ms"]) / 1000)
            print("\n".join(", ".join(value(field, card) for field in fields) for card in shown), flush=True)
    else:
        print("NVIDIA-SMI 580.95.05, a stand-in")


def uuid(card):
    return f"GPU-{card:08}-aaaa-bbbb-cccc-dddddddddddd"


def value(field, card):
    planted, _, otherwise = os.environ.get("FAKE_SMI", "").partition("=")
    if field == planted:
        return otherwise
    if field == "timestamp":
        return datetime.datetime.now().strftime("%Y/%m/%d %H:%M:%S.%f")[:-3]
    if field == "uuid":
        return uuid(card)
    if field == "pcie.link.width.current":
        return "4" if card == 2 else "16"
    return VALUES[field]


if __name__ == "__main__":
    main()
