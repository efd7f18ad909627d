package program

import (
	"net"
	"os"
)

// pairFiles makes a connection of fds[0] and a file, to be inherited, of fds[1].
func pairFiles(fds [2]int) (ours net.Conn, theirs *os.File, err error) {
	f := os.NewFile(uintptr(fds[0]), "program socket")
	theirs = os.NewFile(uintptr(fds[1]), "program socket, inherited")
	ours, err = net.FileConn(f) // duplicates it
	f.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// localPair gives two connections to each other within this process.
func localPair() (a, b net.Conn, err error) {
	a, f, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	b, err = net.FileConn(f)
	f.Close()
	if err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, b, nil
}
