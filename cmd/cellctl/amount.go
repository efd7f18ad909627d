package main

import (
	"math/big"
	"strings"

	"github.com/celldnet/celld/cellproto"
)

// units are those of energy, in µWh.
var units = []struct {
	name string
	uwh  int64
}{{"kWh", 1e9}, {"mWh", 1e3}, {"µWh", 1}, {"μWh", 1}, {"uWh", 1}, {"Wh", 1e6}}

// parseAmount reads an amount of reference energy, such as 2.5Wh, exactly. Kind: BadInput.
func parseAmount(text string) (uwh uint64, err error) {
	const op = "read the amount"
	bad := func(format string, args ...any) error {
		return usageError{cellproto.Errorf(op, cellproto.BadInput, format, args...).WithHint("500mWh, 2.5Wh, 1kWh")}
	}
	number, factor := "", int64(0)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			number, factor = strings.TrimRight(rest, " "), u.uwh
			break
		}
	}
	if factor == 0 {
		return 0, bad("%.40q has no unit: µWh, mWh, Wh or kWh", text)
	}
	if number == "" || len(number) > 30 || strings.ContainsFunc(number, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }) {
		return 0, bad("%.40q is no amount", text)
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, bad("%.40q is no amount", text)
	}
	r.Mul(r, new(big.Rat).SetInt64(factor))
	switch {
	case !r.IsInt():
		return 0, bad("%s is not a whole number of µWh, which is the least there is", text)
	case r.Sign() == 0:
		return 0, bad("%s is nothing", text)
	case r.Num().BitLen() > 53:
		return 0, bad("%s is more than any total can be", text)
	}
	return r.Num().Uint64(), nil
}
