package give

import (
	"bufio"
	"encoding/binary"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

// fakeBus is a message bus on which properties and methods have the values that the test says.
type fakeBus struct {
	socket string
	mu     sync.Mutex
	values map[string]any // "name property" or "name method" -> value, or what gives it; nil: no answer
}

func startBus(t *testing.T, values map[string]any) *fakeBus {
	t.Helper()
	b := &fakeBus{socket: filepath.Join(t.TempDir(), "bus"), values: values}
	l, err := net.Listen("unix", b.socket)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var conns []net.Conn
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			conns = append(conns, c)
			b.mu.Unlock()
			all.Go(func() { defer c.Close(); b.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		b.mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		b.mu.Unlock()
		all.Wait()
	})
	return b
}

func (b *fakeBus) set(key string, value any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.values[key] = value
}

func (b *fakeBus) serve(c net.Conn) {
	in := bufio.NewReader(c)
	if zero, err := in.ReadByte(); err != nil || zero != 0 {
		return
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word {
		case "AUTH":
			if strings.Contains(line, "EXTERNAL") {
				c.Write([]byte("OK 0123456789abcdef0123456789abcdef\r\n"))
			} else {
				c.Write([]byte("REJECTED EXTERNAL\r\n"))
			}
		case "BEGIN":
			b.answer(in, c)
			return
		default:
			c.Write([]byte("ERROR\r\n"))
		}
	}
}

func (b *fakeBus) answer(in *bufio.Reader, c net.Conn) {
	for serial := uint32(1); ; serial++ {
		m, err := dbus.DecodeMessage(in)
		if err != nil {
			return
		}
		text := func(f dbus.HeaderField) string { s, _ := m.Headers[f].Value().(string); return s }
		name, member := text(dbus.FieldDestination), text(dbus.FieldMember)
		reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(m.Serial()),
			dbus.FieldDestination: dbus.MakeVariant(":1.1"),
		}}
		key := name + " " + member
		if member == "Get" {
			key = name + " " + m.Body[1].(string)
		}
		b.mu.Lock()
		value, known := b.values[key]
		b.mu.Unlock()
		if f, ok := value.(func([]any) any); ok {
			value = f(m.Body)
		}
		switch {
		case member == "Hello":
			reply.Body = []any{":1.1"}
		case known && value == nil:
			continue
		case known && member == "Get":
			reply.Body = []any{dbus.MakeVariant(value)}
		case known:
			reply.Body = []any{value}
		default:
			reply.Type = dbus.TypeError
			reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant("org.freedesktop.DBus.Error.ServiceUnknown")
			reply.Body = []any{"there is no " + key}
		}
		reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(reply.Body...))
		if err := writeMessage(c, reply, serial); err != nil {
			return
		}
	}
}

// writeMessage writes a message with a serial number, which the library gives to its own only.
func writeMessage(c net.Conn, m *dbus.Message, serial uint32) error {
	var buf strings.Builder
	if err := m.EncodeTo(&buf, binary.LittleEndian); err != nil {
		return err
	}
	raw := []byte(buf.String())
	binary.LittleEndian.PutUint32(raw[8:], serial)
	_, err := c.Write(raw)
	return err
}
