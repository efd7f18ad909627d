//go:build celld_omit_mdns

package dht

import (
	"errors"

	"github.com/libp2p/go-libp2p/core/host"
)

// newMDNS makes a service that does not start.
func newMDNS(host.Host, string, *lanPeers) noMDNS { return noMDNS{} }

type noMDNS struct{}

func (noMDNS) Start() error { return errors.New("this celld was built without it") }
func (noMDNS) Close() error { return nil }
