// Package netdelay makes a network of machines for tests: each is a network namespace of this system with
// one address, what it sends to a multicast group reaches all that it has a way to, and the way from one to the other takes as long, and loses as much, as the test says. Linux
// only, for who may make network namespaces and open /dev/net/tun.
//
// It owns the namespaces, the TUN devices in them, and the goroutines that carry packets. Processes that a
// test starts on a machine are the test's. Nothing of a network is left once it is closed and these have
// ended: the namespaces have no name.
package netdelay
