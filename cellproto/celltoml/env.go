package celltoml

import (
	"strings"

	"github.com/celldnet/celld/cellproto"
)

// ApplyEnv puts CELL_NETWORK, CELL_LISTEN, CELL_BOOTSTRAP and CELL_MDNS over the keys of [network].
// An unset or empty variable changes nothing. On error, of kind BadInput and naming the variable,
// the configuration is as it was.
func (c *Config) ApplyEnv(getenv func(string) string) error {
	n := c.Network
	if v := getenv(cellproto.EnvNetwork); v != "" {
		n.Name = v
		if f := find("network.name").text(v); f != nil {
			return f.env(cellproto.EnvNetwork)
		}
	}
	for _, l := range [...]struct {
		env, path string
		to        *[]string
	}{
		{cellproto.EnvListen, "network.listen", &n.Listen},
		{cellproto.EnvBootstrap, "network.bootstrap", &n.Bootstrap},
	} {
		v := getenv(l.env)
		if v == "" {
			continue
		}
		all, f := splitList(v, find(l.path))
		if f != nil {
			return f.env(l.env)
		}
		*l.to = all
	}
	switch v := getenv(cellproto.EnvMDNS); v {
	case "":
	case "on":
		n.MDNS = true
	case "off":
		n.MDNS = false
	default:
		return faultf("Set it to on or off.", "must be on or off, not %s", quote(v)).env(cellproto.EnvMDNS)
	}
	if n.PSK != "" && n.IsPublic() {
		return faultf("Unset it, or remove psk from [network] in cell.toml.",
			"puts a cell with a pre-shared key on the public network").env(cellproto.EnvNetwork)
	}
	c.Network = n
	return nil
}

func (f *fault) env(name string) *cellproto.Error {
	f.path = name
	return f.err("read the environment")
}

// splitList takes a comma-separated list; spaces around an entry and empty entries do not count.
func splitList(v string, k *key) ([]string, *fault) {
	all := []string{}
	for s := range strings.SplitSeq(v, ",") {
		s = strings.TrimSpace(s)
		if s == "" {
			continue
		}
		if f := k.text(s); f != nil {
			return nil, f
		}
		if all = append(all, s); len(all) > maxList {
			return nil, faultf("Remove some.", "has more than %d entries", maxList)
		}
	}
	return all, nil
}
