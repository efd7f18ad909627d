//go:build !celld_omit_portmap

package node

import (
	"github.com/libp2p/go-libp2p/config"
	basic "github.com/libp2p/go-libp2p/p2p/host/basic"
)

// natManager asks routers by UPnP and NAT-PMP to let others in.
var natManager config.NATManagerC = basic.NewNATManager
