"""Email over SMTP, with STARTTLS unless the configuration turns it off. Proxies for HTTP do not apply to it.

INVARIANT: nothing that an agent wrote becomes a link. Mail programs make links of addresses in plain text.
"""

import smtplib
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime

from mcp_guard.notify.chat import unlinked
from mcp_guard.notify.message import Message
from mcp_guard.outbound import DeliveryError, Destination

TIMEOUT_SECONDS = 10


def send(destination: Destination, message: Message) -> None:
    """Raises: DeliveryError."""
    options, mail = destination.options, EmailMessage()
    mail["From"], mail["To"] = options["sender"], ", ".join(options["to"])
    mail["Subject"] = unlinked(message.title)[:200]
    mail["Date"] = format_datetime(datetime.fromtimestamp(message.at, UTC))
    mail["Message-ID"] = f"<{message.id}@mcp-guard>"
    mail.set_content(_with_one_link("\n\n".join(message.lines), message.link) + "\n")
    try:
        with smtplib.SMTP(options["host"], options["port"], timeout=TIMEOUT_SECONDS) as server:
            if options["starttls"]:
                server.starttls(context=destination.network.ssl_context())
            if options["user"] is not None:
                server.login(options["user"], destination.secret("password"))
            server.send_message(mail)
    except (OSError, smtplib.SMTPException) as error:
        code = f" {error.smtp_code}" if isinstance(error, smtplib.SMTPResponseException) else ""
        raise DeliveryError(f"the mail server did not accept it ({type(error).__name__}{code})") from None


def _with_one_link(text: str, link: str) -> str:
    """The text, in which every address but this one is taken apart."""
    return link.join(map(unlinked, text.split(link)))
