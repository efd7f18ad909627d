//go:build celld_omit_portmap

package node

import "github.com/libp2p/go-libp2p/config"

// natManager is none: nobody is asked to let others in.
var natManager config.NATManagerC
