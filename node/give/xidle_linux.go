package give

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The X server of the desktop says for how long nobody has touched anything (extension MIT-SCREEN-SAVER).
// Three requests of fixed form are spoken here: the library for it waits without end, prints to the standard
// error, and panics over what it does not expect.

// xserver is a connection to one display, made when it is asked.
type xserver struct {
	socket string // such as /tmp/.X11-unix/X0
	number string // of the display, "0"
	auth   []string
	conn   net.Conn
	root   uint32
	opcode byte
}

// Of the X protocol.
const (
	xExtension   = "MIT-SCREEN-SAVER"
	xQueryExt    = 98
	xCookie      = "MIT-MAGIC-COOKIE-1"
	maxXSetup    = 256 << 10 // bytes of what the server tells at the beginning; 64 KiB times 4 at most
	maxXAuth     = 1 << 20   // bytes of the file of cookies
	maxXEvents   = 256       // that come before an answer
	xReply       = 1
	xReplyLength = 32
)

func (x *xserver) where() string { return x.socket }

func (x *xserver) by() string { return "the X server's idle time" }

// idle asks for how long nobody has touched anything.
func (x *xserver) idle(ctx context.Context) (time.Duration, Reading) {
	if _, err := os.Stat(x.socket); err != nil {
		return 0, Absent
	}
	idle, err := x.ask(ctx)
	if err != nil {
		x.close() // the next one connects anew
		return 0, Unknown
	}
	return idle, Yes
}

func (x *xserver) ask(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, busLimit)
	defer cancel()
	if x.conn == nil {
		if err := x.open(ctx); err != nil {
			return 0, err
		}
	}
	if err := x.limit(ctx); err != nil {
		return 0, err
	}
	request := binary.LittleEndian.AppendUint32([]byte{x.opcode, 1, 2, 0}, x.root) // QueryInfo
	if _, err := x.conn.Write(request); err != nil {
		return 0, err
	}
	reply, err := readXReply(x.conn)
	if err != nil {
		return 0, err
	}
	return time.Duration(binary.LittleEndian.Uint32(reply[16:])) * time.Millisecond, nil
}

func (x *xserver) limit(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	return x.conn.SetDeadline(deadline)
}

func (x *xserver) open(ctx context.Context) (err error) {
	var d net.Dialer
	if x.conn, err = d.DialContext(ctx, "unix", x.socket); err != nil {
		x.conn = nil
		return err
	}
	if err := x.limit(ctx); err != nil {
		return err
	}
	name, cookie := x.cookie()
	hello := []byte{'l', 0, 11, 0, 0, 0} // little-endian, version 11.0
	hello = binary.LittleEndian.AppendUint16(hello, uint16(len(name)))
	hello = binary.LittleEndian.AppendUint16(hello, uint16(len(cookie)))
	hello = append(hello, 0, 0)
	if _, err := x.conn.Write(append(append(hello, padded([]byte(name))...), padded(cookie)...)); err != nil {
		return err
	}
	if x.root, err = readXSetup(x.conn); err != nil {
		return err
	}
	query := binary.LittleEndian.AppendUint16([]byte{xQueryExt, 0}, uint16(2+len(padded([]byte(xExtension)))/4))
	query = binary.LittleEndian.AppendUint16(query, uint16(len(xExtension)))
	if _, err := x.conn.Write(append(append(query, 0, 0), padded([]byte(xExtension))...)); err != nil {
		return err
	}
	reply, err := readXReply(x.conn)
	if err == nil && reply[8] == 0 {
		err = errors.New("the X server has no " + xExtension)
	}
	if err == nil {
		x.opcode = reply[9]
	}
	return err
}

func (x *xserver) close() {
	if x.conn != nil {
		x.conn.Close()
		x.conn = nil
	}
}

func padded(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }

// readXSetup reads what the server says of itself, and gives the root window of its first screen.
func readXSetup(r io.Reader) (root uint32, err error) {
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, err
	}
	n := int64(binary.LittleEndian.Uint16(head[6:])) * 4
	if n > maxXSetup {
		return 0, fmt.Errorf("the X server says %d bytes of itself", n)
	}
	body, err := io.ReadAll(io.LimitReader(r, n))
	switch {
	case err != nil:
		return 0, err
	case head[0] != 1:
		return 0, errors.New("the X server refuses")
	case int64(len(body)) != n || n < 32:
		return 0, io.ErrUnexpectedEOF
	}
	vendor, formats := int(binary.LittleEndian.Uint16(body[16:])), int(body[21])
	at := 32 + vendor + -vendor&3 + 8*formats
	if at+4 > len(body) || body[20] == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return binary.LittleEndian.Uint32(body[at:]), nil
}

// readXReply reads up to the next reply; none of those that are asked for is longer than its head.
func readXReply(r io.Reader) ([]byte, error) {
	b := make([]byte, xReplyLength)
	for range maxXEvents {
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		switch {
		case b[0] == xReply && binary.LittleEndian.Uint32(b[4:]) == 0:
			return b, nil
		case b[0] <= xReply:
			return nil, fmt.Errorf("the X server answers with error %d", b[1])
		}
	}
	return nil, errors.New("the X server does not answer")
}

// cookie finds the secret of the display among the files of cookies; "": none, which some servers take.
func (x *xserver) cookie() (name string, cookie []byte) {
	for _, path := range x.auth {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(f, maxXAuth))
		f.Close()
		if c := cookieIn(data, x.number); err == nil && c != nil {
			return xCookie, c
		}
	}
	return "", nil
}

// cookieIn reads a file of cookies: entries of a family and four texts, each with its length.
func cookieIn(data []byte, display string) []byte {
	for len(data) > 2 {
		data = data[2:] // the family: whoever may read the file is on this machine
		var texts [4][]byte
		for i := range texts {
			if len(data) < 2 {
				return nil
			}
			n := int(binary.BigEndian.Uint16(data))
			if data = data[2:]; len(data) < n {
				return nil
			}
			texts[i], data = data[:n], data[n:]
		}
		number := string(texts[1])
		if (number == "" || number == display) && string(texts[2]) == xCookie && len(texts[3]) == 16 {
			return bytes.Clone(texts[3])
		}
	}
	return nil
}

// newXServer gives the X server of this user's session.
func newXServer(sockets, runtime string, getenv func(string) string) *xserver {
	number, ok := strings.CutPrefix(getenv("DISPLAY"), ":")
	if number, _, _ = strings.Cut(number, "."); !ok || number == "" || strings.Trim(number, "0123456789") != "" {
		number = "0" // a daemon often knows none
	}
	x := &xserver{socket: filepath.Join(sockets, "X"+number), number: number}
	if path := getenv("XAUTHORITY"); path != "" {
		x.auth = append(x.auth, path)
	}
	if home := getenv("HOME"); home != "" {
		x.auth = append(x.auth, filepath.Join(home, ".Xauthority"))
	}
	x.auth = append(x.auth, filepath.Join(runtime, "gdm", "Xauthority"))
	return x
}
