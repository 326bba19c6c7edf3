package hub

import (
	"bytes"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/moderation"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
)

// What the payloads on a room's channel begin with. Presence has its own letters.
const (
	fromInstance = 'm' // m<hub id> <connection that gets none>\n<JSON of the client frame>
	fromOutside  = '{' // the JSON of a message that someone else has published
	lossNotice   = 'g' // g<hub id>: messages of that hub may not have arrived; on the users' channel, in any room
	fromOperator = 'o' // o<hub id>\n<JSON of an Order>, on the users' channel
	limitReset   = 'f' // f<hub id>\n<limit>\n<key>: what was counted is to be forgotten; on the users' channel
)

// Receive implements bus.Receiver.
func (h *Hub) Receive(channel string, payload []byte) {
	name, isRoom := strings.CutPrefix(channel, h.channel(""))
	switch {
	case isRoom && len(payload) > 0 && payload[0] == fromInstance:
		h.receiveMessage(name, payload[1:])
	case isRoom && len(payload) > 0 && payload[0] == fromOutside:
		h.receiveOutside(name, payload)
	case len(payload) > 0 && payload[0] == lossNotice:
		h.receiveLoss(name, isRoom, string(payload[1:]))
	case !isRoom && len(payload) > 0 && payload[0] == fromOperator:
		from, body, _ := bytes.Cut(payload[1:], []byte{'\n'})
		h.receiveOrder(string(from), body)
	case !isRoom && len(payload) > 0 && payload[0] == limitReset:
		h.receiveReset(payload[1:])
	case !isRoom && len(payload) > 0 && payload[0] == moderation.Kind:
		h.backend.Moderation.Deliver(payload)
	case h.backend.Feed != nil:
		h.backend.Feed.Deliver(channel, payload)
	}
}

// Lost implements bus.Receiver.
func (h *Hub) Lost(channels []string) {
	for _, channel := range channels {
		name, isRoom := strings.CutPrefix(channel, h.channel(""))
		if r := h.room(name); isRoom && r != nil {
			r.tellGap()
		}
		if channel == redisdb.UsersChannel(h.opts.Base) {
			h.backend.Moderation.Lost()
		}
	}
	if h.backend.Feed != nil {
		h.backend.Feed.Lost(channels)
	}
}

// LossNotice is what tells the other instances that messages of this hub may not have reached them.
func (h *Hub) LossNotice() []byte { return append([]byte{lossNotice}, h.id...) }

// receiveLoss tells the members of a room, or of all, that messages of another hub may be missing. Its own members have them.
func (h *Hub) receiveLoss(name string, isRoom bool, from string) {
	if from == h.id {
		return
	}
	if isRoom {
		if r := h.room(name); r != nil {
			r.tellGap()
		}
		return
	}
	for _, r := range h.allRooms() {
		r.tellGap()
	}
}

// tellGap tells the members that messages may be missing.
func (r *room) tellGap() {
	r.relay(ws.Text(wire.AppendGap(ws.Buffer(64+len(r.name)), r.name, "bus")), nil)
}

func (h *Hub) receiveMessage(name string, payload []byte) {
	head, body, ok := bytes.Cut(payload, []byte{'\n'})
	from, excluded, ok2 := bytes.Cut(head, []byte{' '})
	if !ok || !ok2 || string(from) == h.id {
		return // our own echo: delivered before it left
	}
	r := h.room(name)
	if r == nil {
		return
	}
	if ts, ok := wire.MessageTime(body); ok {
		// Clocks of instances differ: what seems to come from the future has come at once.
		h.metrics.BusLag.Observe(max(0, time.Since(time.UnixMilli(ts)).Seconds()))
	}
	var except *ws.Conn
	if len(excluded) > 0 {
		if s := h.session(string(excluded)); s != nil {
			except = s.conn
		}
	}
	r.relay(ws.Text(append(ws.Buffer(len(body)), body...)), except)
}

// instancePayload is what the other instances get of a message.
func (h *Hub) instancePayload(frame []byte) []byte {
	p := make([]byte, 0, 3+len(h.id)+len(frame))
	p = append(append(p, fromInstance), h.id...)
	return append(append(p, " \n"...), frame...)
}

// receiveOutside delivers a message that was published on a room's channel without our header: by a cron job, redis-cli, another
// program. Every instance validates it for itself.
func (h *Hub) receiveOutside(name string, payload []byte) {
	r := h.room(name)
	if r == nil {
		return
	}
	if len(payload) > h.MaxMessage() {
		h.metrics.DroppedOutside.Inc()
		h.logger.Warn("message from outside is too large", zap.String("room", name), zap.Int("size", len(payload)))
		return
	}
	event, data, err := wire.DecodeOutside(payload)
	if err != nil {
		h.metrics.DroppedOutside.Inc()
		h.logger.Warn("message from outside is malformed", zap.String("room", name), zap.Error(err))
		return
	}
	b := wire.AppendMessage(ws.Buffer(len(payload)+128), name, event, data, nil, time.Now().UnixMilli())
	r.relay(ws.Text(b), nil)
}
