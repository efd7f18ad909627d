package load

import (
	"io"
	"net"
)

// copyRoom is what one read takes in, in bytes: what a connection of frames does.
const copyRoom = 68 << 10

// CopyTo copies bytes between t and a Unix socket until one of them ends, and closes both: what a process
// between two others costs at the least, since it looks at nothing.
func CopyTo(t io.ReadWriteCloser, socket string) error {
	defer t.Close()
	far, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer far.Close()
	back := make(chan error, 1)
	go func() {
		back <- copyBytes(t, far)
		t.Close()
	}()
	err = copyBytes(far, t)
	far.Close()
	if berr := <-back; err == nil {
		err = berr
	}
	return err
}

// copyBytes is io.Copy without splice(2), which costs more than it saves with so few bytes.
func copyBytes(to io.Writer, from io.Reader) error {
	buf := make([]byte, copyRoom)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Copier listens on a Unix socket and has each connection copied to another one.
func Copier(path, to string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = CopyTo(conn, to) }() // a caller that leaves is no error
		}
	}()
	Ready(path)
	UntilEOF()
	return nil
}
