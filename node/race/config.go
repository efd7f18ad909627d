package race

import (
	"time"

	"github.com/celldnet/celld/cellproto"
)

// Defaults of a race.
const (
	advertTimeout = 200 * time.Millisecond
	grace         = 50 * time.Millisecond
	patientGrace  = time.Second
	pingTimeout   = time.Second
	probeTimeout  = 5 * time.Second // a dial through a relay with hole punching can take seconds
	lastResort    = 500 * time.Millisecond
	pings         = 3
	maxPings      = 16
)

// Config says how a race is run. The zero value is the default race; a zero field takes its default.
type Config struct {
	// AdvertTimeout is how long a candidate is waited for before it is pinged without an advert;
	// an advert that comes later still counts. Default 200 ms.
	AdvertTimeout time.Duration
	// PingTimeout is the longest wait for each ping after the first. Past it the candidate is
	// measured by the pings that did arrive. Default 1 s.
	PingTimeout time.Duration
	// ProbeTimeout is by when the first ping must have arrived, counted from the start of the
	// candidate's probe, so that it covers the dial. Default 5 s.
	ProbeTimeout time.Duration
	// Timeout is when the race ends whatever has happened. Default cellproto.DefaultTimeout.
	Timeout time.Duration
	// Grace is the longest wait for the others once one candidate has finished; they get as long
	// as that one needed, if that is less. Default 50 ms.
	Grace time.Duration
	// Patient is for a race in the background: no call waits for it, so everyone gets one second
	// after the first has finished.
	Patient bool

	Pings     int // round trips for each candidate, at most 16; default 3
	MaxSeen   int // candidates that are looked at; default and most cellproto.MaxProviders
	MaxProbed int // candidates that are probed at once; default and most cellproto.MaxProbed

	// Accepts lists the schemas that the caller can use; empty: any. A candidate that names none
	// of them in its advert, or gives no advert, is out.
	Accepts []cellproto.SchemaHash
}

// Validate reports the first field that is out of bounds, with kind BadInput.
func (c Config) Validate() error {
	const op = "check race config"
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"AdvertTimeout", c.AdvertTimeout}, {"PingTimeout", c.PingTimeout},
		{"ProbeTimeout", c.ProbeTimeout}, {"Timeout", c.Timeout}, {"Grace", c.Grace},
	} {
		if d.v < 0 || d.v > time.Hour {
			return cellproto.Errorf(op, cellproto.BadInput, "%s is %v, not between 0 and 1h", d.name, d.v)
		}
	}
	for _, n := range []struct {
		name    string
		v, most int
	}{
		{"Pings", c.Pings, maxPings}, {"MaxSeen", c.MaxSeen, cellproto.MaxProviders},
		{"MaxProbed", c.MaxProbed, cellproto.MaxProbed},
	} {
		if n.v < 0 || n.v > n.most {
			return cellproto.Errorf(op, cellproto.BadInput, "%s is %d, not between 0 and %d", n.name, n.v, n.most)
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	orDuration := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	orInt := func(p *int, n int) {
		if *p == 0 {
			*p = n
		}
	}
	orDuration(&c.AdvertTimeout, advertTimeout)
	orDuration(&c.PingTimeout, pingTimeout)
	orDuration(&c.ProbeTimeout, probeTimeout)
	orDuration(&c.Timeout, cellproto.DefaultTimeout)
	orDuration(&c.Grace, grace)
	orInt(&c.Pings, pings)
	orInt(&c.MaxSeen, cellproto.MaxProviders)
	orInt(&c.MaxProbed, cellproto.MaxProbed)
	return c
}
