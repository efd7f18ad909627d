//go:build !linux

package program

import (
	"context"
	"errors"
	"net"
	"os"
	"time"
)

// grants do not exist here: callers are relayed.
type grants struct{}

func newGrants() (*grants, *os.File, error) { return nil, nil, errors.ErrUnsupported }

func (*grants) give(*net.UnixConn, string, time.Time) error { return errors.ErrUnsupported }
func (*grants) lend(*net.UnixConn, string, time.Time) error { return errors.ErrUnsupported }
func (*grants) begin(int, bool) error                       { return errors.ErrUnsupported }
func (*grants) confirm()                                    {}
func (*grants) takeBack() bool                              { return true }
func (*grants) recall()                                     {}
func (*grants) leave(context.Context) (last uint32)         { return 0 }
func (*grants) revoke(uint32)                               {}
func (*grants) open() int                                   { return 0 }
func (*grants) use() (inFlight int, last time.Time)         { return 0, time.Time{} }
func (*grants) counts() (uint32, uint32, []time.Duration)   { return 0, 0, nil }
func (*grants) close()                                      {}
