// A plain Socket.IO server with the Redis adapter, for comparison: node server.js <host> <port> <Redis URL>
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const [host, port, url] = process.argv.slice(2);
const publisher = createClient({ url });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const server = createServer();
const io = new Server(server, { transports: ["websocket"], adapter: createAdapter(publisher, subscriber) });
io.on("connection", (socket) => {
  socket.on("join", async (room, presence, ack) => {
    await socket.join(room);
    if (presence !== "full") return ack();
    // Presence as its documentation has it: others are told, and who is there is asked of all instances.
    socket.to(room).emit("joined", socket.id);
    ack((await io.in(room).fetchSockets()).map((member) => member.id));
  });
  socket.on("msg", (room, data, ack) => {
    socket.to(room).emit("msg", data);
    ack();
  });
});
server.listen(Number(port), host);
