package celltoml

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Validate checks a configuration that a program has put together or changed; Parse and ApplyEnv
// call it themselves. The error is of kind BadInput and names the key.
func (c *Config) Validate() error {
	if f := c.validate(); f != nil {
		return f.err("check cell.toml")
	}
	return nil
}

func (f *fault) err(op string) *cellproto.Error {
	msg := f.msg
	if f.path != "" {
		msg = f.path + " " + msg
	}
	return cellproto.Errorf(op, cellproto.BadInput, "%s", msg).WithHint("%s", f.hint)
}

// validate gives the first fault: keys in the order of the table, then what keys say together.
func (c *Config) validate() *fault {
	for i := range keys {
		if f := keys[i].validate(c); f != nil {
			if f.path == "" {
				f.path = keys[i].path
			}
			return f
		}
	}
	return c.together()
}

// validate checks what Config holds for one key.
func (k *key) validate(c *Config) *fault {
	switch p := k.at(c).(type) {
	case *string:
		if *p == "" {
			if k.optional {
				return nil
			}
			return faultf(fmt.Sprintf("Add %s under [%s].", k.last(), k.table()), "is missing")
		}
		return k.text(*p)
	case *[]string:
		if float64(len(*p)) > k.max {
			return faultf("Remove some.", "has %d entries, the limit is %g", len(*p), k.max)
		}
		for i, s := range *p {
			if f := k.text(s); f != nil {
				f.path = fmt.Sprintf("%s[%d]", k.path, i)
				return f
			}
		}
	case *map[string]string:
		return k.validateNames(*p)
	case *int:
		return k.inRange(float64(*p), "")
	case *float64:
		return k.inRange(*p, "")
	case *int64:
		if *p == 0 && k.optional {
			return nil
		}
		return k.inRange(float64(*p), " bytes")
	case *time.Duration:
		return k.inRange(p.Seconds(), " s")
	}
	return nil
}

func (k *key) validateNames(m map[string]string) *fault {
	if float64(len(m)) > k.max {
		return faultf("Remove some.", "has %d entries, the limit is %g", len(m), k.max)
	}
	sorted := make([]string, 0, len(m))
	for name := range m {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		if f := checkName(name); f != nil {
			return f
		}
		if f := k.text(m[name]); f != nil {
			f.path = k.path + "." + name
			return f
		}
	}
	return nil
}

func (k *key) text(s string) *fault {
	if f := checkText(s, k.path == "cell.build"); f != nil {
		return f
	}
	if k.check != nil {
		if f := k.check(s); f != nil {
			return f
		}
	}
	if k.choices != nil && !slices.Contains(k.choices, s) {
		return faultf(fmt.Sprintf("Use one of: %s.", strings.Join(k.choices, ", ")), "must be one of %s, not %s",
			strings.Join(k.choices, ", "), quote(s))
	}
	return nil
}

// inRange is written so that NaN is outside.
func (k *key) inRange(v float64, unit string) *fault {
	if v >= k.min && v <= k.max {
		return nil
	}
	return faultf(fmt.Sprintf("Choose a value from %s to %s%s.", plain(k.min), plain(k.max), unit),
		"is %s%s, outside %s to %s%s", plain(v), unit, plain(k.min), plain(k.max), unit)
}

// together checks what no key says alone.
func (c *Config) together() *fault {
	at := func(path, hint, format string, args ...any) *fault {
		f := faultf(hint, format, args...)
		f.path = path
		return f
	}
	a := &c.Artefact
	switch {
	case len(c.Auth.AllowedKeys) > 0 && c.Auth.Challenge != ChallengeSig:
		// The owner believes that only these keys may call, and everybody could.
		return at("auth.allowed_keys", `Set challenge = "sig" under [auth], or remove allowed_keys.`,
			"has no effect with challenge = %q", string(c.Auth.Challenge))
	case c.Network.PSK != "" && c.Network.IsPublic():
		return at("network.psk", `Give the private network a name: name = "home" under [network].`,
			"is for private networks, and this cell is on the public one")
	case a.Type == ArtefactUnset && *a != (Artefact{}):
		return at("artefact.type", `Set type = "source" (repo and ref) or type = "binary" under [artefact].`, "is missing")
	case (a.Repo == "") != (a.Ref == ""), a.Type == ArtefactSource && a.Repo == "":
		missing := "artefact.ref"
		if a.Repo == "" {
			missing = "artefact.repo"
		}
		return at(missing, "A source is a repo and a ref; a repo alone would build something else tomorrow.", "is missing")
	}
	return nil
}
