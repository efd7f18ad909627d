package program

import (
	"net"
	"os"
)

// pairFiles makes files of two connected sockets, one for this process and one to be inherited.
func pairFiles(fds [2]int) (ours, theirs *os.File) {
	return os.NewFile(uintptr(fds[0]), "program socket"), os.NewFile(uintptr(fds[1]), "program socket, inherited")
}

// connOf makes a connection of a socket, whose file it closes.
func connOf(f *os.File) (net.Conn, error) {
	defer f.Close()
	return net.FileConn(f) // duplicates it
}

// localPair gives two connections to each other within this process.
func localPair() (a, b net.Conn, err error) {
	f, g, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	if a, err = connOf(f); err != nil {
		g.Close()
		return nil, nil, err
	}
	if b, err = connOf(g); err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, b, nil
}
