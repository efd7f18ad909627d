package main

import (
	"testing"

	"github.com/celldnet/celld/cellproto"
)

func TestParseAmount(t *testing.T) {
	for text, want := range map[string]uint64{
		"1µWh": 1, "1uWh": 1, "20 mWh": 20_000, "2.5Wh": 2_500_000, "1kWh": 1_000_000_000, "0.001mWh": 1, ".5Wh": 500_000, "9007199254740991uWh": 1<<53 - 1,
	} {
		if got, err := parseAmount(text); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "5", "Wh", "0Wh", "-1Wh", "1e3Wh", "0.0001mWh", "1.2.3Wh", "1/2Wh", "99999999999kWh", "5 kg", "5wh", "NaNWh", "0x10Wh"} {
		if got, err := parseAmount(text); cellproto.KindOf(err) != cellproto.BadInput || cellproto.HintOf(err) == "" {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
